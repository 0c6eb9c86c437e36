-- FILL: install what a reader found, if the right that it was given is still the one in place. Returns 1 if it did.
-- KEYS entry right   ARGV token ttl-ms record-header body
local i = incarnation()
if redis.call('GET', KEYS[2]) ~= i .. ARGV[1] then
  return 0
end
redis.call('SET', KEYS[1], i .. ARGV[3] .. ARGV[4], 'PX', ARGV[2])
redis.call('DEL', KEYS[2])
return 1
