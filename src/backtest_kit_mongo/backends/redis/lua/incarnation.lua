-- INCARNATION: whose entries a partition serves now.
-- KEYS era   ARGV expected-era
return current(KEYS[1], ARGV[1])
