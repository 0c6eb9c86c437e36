-- BEAT: tell one process, in its place among the invalidations, how far their numbers have come. Fails on a replica, whose numbers lag.
-- KEYS numbers*   ARGV channel-of-the-process question
local answer = ARGV[2] .. ' ' .. incarnation()
for n = 1, #KEYS do
  answer = answer .. ' ' .. (redis.call('GET', KEYS[n]) or '0')
end
redis.call('PUBLISH', ARGV[1], answer)
