-- COMMIT of many keys of one partition, after their transaction: release the leases, install the entries whose rights are still ours,
-- append the events. Returns how many entries were installed.
-- KEYS stream era { entry right leases numbers channel }*
-- ARGV expected-era token ttl-ms count { record-header body }* { event-header number event-body }*
-- An empty record-header: there is nothing to install. A number other than 0 stands for the body of that entry.
local i = current(KEYS[2], ARGV[1])
local count = tonumber(ARGV[4])
-- The events first, as in COMMIT.
local refused = false
for n = 5 + 2 * count, #ARGV, 3 do
  local body, number = ARGV[n + 2], tonumber(ARGV[n + 1])
  if number > 0 then
    body = ARGV[4 + 2 * number]
  end
  local added = redis.pcall('XADD', KEYS[1], '*', 'e', ARGV[n], 'p', body)
  refused = refused or (added.err and added)
end
local installed = 0
for number = 1, count do
  local n, header = 5 * number - 2, ARGV[3 + 2 * number]
  if redis.call('ZREM', KEYS[n + 2], ARGV[2]) == 0 then
    redis.call('DEL', KEYS[n])
    redis.call('DEL', KEYS[n + 1])
    invalidate(KEYS[n + 3], KEYS[n + 4], KEYS[n])
  elseif header ~= '' and redis.call('GET', KEYS[n + 1]) == i .. ARGV[2] then
    redis.call('SET', KEYS[n], i .. header .. ARGV[4 + 2 * number], 'PX', ARGV[3])
    redis.call('DEL', KEYS[n + 1])
    installed = installed + 1
  end
end
if refused then
  return refused
end
return installed
