-- SIZE: what a stream holds now, and up to what events are appended (0: no bound), said by whoever trims it.
-- KEYS stream account   ARGV streams-count chosen-bytes
return { measure(KEYS[1], KEYS[2], tonumber(ARGV[1]), now_ms(), tonumber(ARGV[2])) }
