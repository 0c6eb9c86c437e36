-- READ: the valid entry (a string), or { token }: the install right to use, '' for none.
-- KEYS entry right leases born era   ARGV expected-era fresh-token longest-lease-ms ttl-ms
local i = current(KEYS[5], ARGV[1])
local entry = redis.call('GET', KEYS[1])
if entry and string.sub(entry, 1, 40) == i then
  return entry
end
local now = now_ms()
local open = see_open(KEYS[4], i, now, tonumber(ARGV[3]))
if leased(KEYS[3], now, tonumber(ARGV[3])) or not open then
  return { '' }
end
local right = redis.call('GET', KEYS[2])
if right and string.sub(right, 1, 40) == i then
  return { string.sub(right, 41) }
end
redis.call('SET', KEYS[2], i .. ARGV[2], 'PX', ARGV[4])
return { ARGV[2] }
