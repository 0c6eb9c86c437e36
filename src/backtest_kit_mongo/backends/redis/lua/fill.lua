-- FILL: install what a reader found, if the right that it was given is still the one in place. Returns 1 if it did.
-- KEYS entry right era   ARGV expected-era token ttl-ms record-header body
local i = current(KEYS[3], ARGV[1])
if redis.call('GET', KEYS[2]) ~= i .. ARGV[2] then
  return 0
end
redis.call('SET', KEYS[1], i .. ARGV[4] .. ARGV[5], 'PX', ARGV[3])
redis.call('DEL', KEYS[2])
return 1
