-- READ: the valid entry (a string), or { token }: the install right to use, '' for none. Where nothing is served: { '', what to ask again with
-- after a look for flags }.
-- KEYS entry right leases born era token   ARGV expected-era fresh-token longest-lease-ms ttl-ms serve-ms asked
local i = current(KEYS[5], ARGV[1])
local now = now_ms()
if not served(KEYS[6], i, now, tonumber(ARGV[5]), ARGV[6]) then
  return { '', i .. string.format('%.0f', now) }
end
local entry = redis.call('GET', KEYS[1])
if entry and string.sub(entry, 1, 40) == i then
  return entry
end
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
