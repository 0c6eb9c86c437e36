-- COMMIT of keys of one partition: release their leases, install the entries whose rights are still ours, append the events. Returns how many
-- entries were installed, and 1 if the events were appended.
-- KEYS born stream account era { entry right leases numbers channel }*
-- ARGV expected-era token ttl-ms streams-count { record-header body }* { event-header number event-body }*
-- An empty record-header: there is nothing to install. A number other than 0 stands for the body of that entry, so that a payload is sent once.
local i = current(KEYS[4], ARGV[1])
local count = (#KEYS - 4) / 5
-- The events first: see `append`.
local events = {}
for n = 5 + 2 * count, #ARGV, 3 do
  local number = tonumber(ARGV[n + 1])
  events[#events + 1] = ARGV[n]
  events[#events + 1] = number > 0 and ARGV[4 + 2 * number] or ARGV[n + 2]
end
local appended = append(KEYS[2], KEYS[3], tonumber(ARGV[4]), events)
local installed = 0
for number = 1, count do
  local n, header, body = 5 * number, ARGV[3 + 2 * number], ARGV[4 + 2 * number]
  if redis.call('ZREM', KEYS[n + 2], ARGV[2]) == 0 then
    -- The lease ran out before we came back: someone may have cached what was true before our write.
    redis.call('DEL', KEYS[n])
    redis.call('DEL', KEYS[n + 1])
    invalidate(KEYS[n + 3], KEYS[n + 4], KEYS[n])
  elseif header ~= '' and redis.call('GET', KEYS[n + 1]) == i .. ARGV[2] then
    redis.call('SET', KEYS[n], i .. header .. body, 'PX', ARGV[3])
    redis.call('DEL', KEYS[n + 1])
    installed = installed + 1
  end
end
if type(appended) == 'table' then
  return appended -- The leases are released, and the client keeps the events for later.
end
return { installed, appended }
