-- BEAT: tell one process, in its place among the invalidations, how far their numbers have come. Fails on a replica, whose numbers lag.
-- With them goes B, because FLUSHALL leaves the incarnation and lets the numbers begin anew: they could come to be what they were.
-- KEYS born era numbers*   ARGV expected-era channel-of-the-process question
see_open(KEYS[1], current(KEYS[2], ARGV[1]), now_ms(), 0)
local answer = ARGV[3] .. ' ' .. redis.call('GET', KEYS[1])
for n = 3, #KEYS do
  answer = answer .. ' ' .. (redis.call('GET', KEYS[n]) or '0')
end
redis.call('PUBLISH', ARGV[2], answer)
