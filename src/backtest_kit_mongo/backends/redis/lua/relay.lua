-- RELAY: a change was seen in MongoDB's own log, or was made past Redis. An entry that may miss it goes, and so does the right to
-- install one (a reader that holds it may have read before the change).
-- KEYS entry right leases numbers channel   ARGV revision (16 hex; empty: whatever the entry's is)
local entry = redis.call('GET', KEYS[1])
if entry and (ARGV[1] == '' or string.sub(entry, 41, 56) < ARGV[1]) then
  redis.call('DEL', KEYS[1])
end
redis.call('DEL', KEYS[2])
invalidate(KEYS[4], KEYS[5], KEYS[1])
