-- LEASE of keys of one partition, under one token: nobody may be served their old entries from here on. Returns the entry that it deleted, if
-- that was asked for (of one key) and it was valid. Where that is not told, because nothing is served, it does nothing and returns { what to
-- ask again with after a look for flags, or with anything else }.
-- KEYS born stream account era { entry right leases numbers channel }*
-- ARGV expected-era fresh-token lease-ms ttl-ms longest-lease-ms streams-count (0: never mind the feed) want-prior token serve-ms asked
local i = current(KEYS[4], ARGV[1])
local now, longest = now_ms(), tonumber(ARGV[5])
local tells = ARGV[7] == '1' and served(ARGV[8], i, now, tonumber(ARGV[9]), ARGV[10])
if ARGV[7] == '1' and not tells and ARGV[10] == '' then
  return { i .. string.format('%.0f', now) }
end
require_room(KEYS[2], KEYS[3], tonumber(ARGV[6]))
local open = see_open(KEYS[1], i, now, longest)
local deadline = string.format('%.0f', now + tonumber(ARGV[3]))
local prior = false
for n = 5, #KEYS, 5 do
  local sole = not leased(KEYS[n + 2], now, longest)
  local entry = tells and redis.call('GET', KEYS[n])
  if entry and string.sub(entry, 1, 40) == i then
    prior = entry
  end
  redis.call('ZADD', KEYS[n + 2], deadline, ARGV[2])
  redis.call('DEL', KEYS[n])
  invalidate(KEYS[n + 3], KEYS[n + 4], KEYS[n])
  if sole and open then
    redis.call('SET', KEYS[n + 1], i .. ARGV[2], 'PX', ARGV[4])
  else
    redis.call('DEL', KEYS[n + 1])
  end
end
return prior
