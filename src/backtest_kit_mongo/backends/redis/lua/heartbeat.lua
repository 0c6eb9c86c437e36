-- BEAT: tell one process, in its place among the invalidations, how far their numbers have come. Fails on a replica, whose numbers lag.
-- Nothing is told, and nothing of this process served, where no token lives: { what to ask again with after a look for flags } is returned.
-- With them goes B, because FLUSHALL leaves the incarnation and lets the numbers begin anew: they could come to be what they were.
-- KEYS born era token numbers*   ARGV expected-era channel-of-the-process question serve-ms asked
local i, now = current(KEYS[2], ARGV[1]), now_ms()
if not served(KEYS[3], i, now, tonumber(ARGV[4]), ARGV[5]) then
  return { i .. string.format('%.0f', now) }
end
see_open(KEYS[1], i, now, 0)
local answer = ARGV[3] .. ' ' .. redis.call('GET', KEYS[1])
for n = 4, #KEYS do
  answer = answer .. ' ' .. (redis.call('GET', KEYS[n]) or '0')
end
redis.call('PUBLISH', ARGV[2], answer)
