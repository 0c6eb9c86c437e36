-- COMMIT: release the lease, install the entry if the right is still ours, append the events. Returns { installed, lease was alive }.
-- KEYS entry right leases born stream numbers channel era   ARGV expected-era token ttl-ms record-header body { event-header event-body }*
-- An empty event-body stands for `body`, so that a payload is sent once.
local i = current(KEYS[8], ARGV[1])
-- The events first: only a script's first write is refused by a Redis that is full, and nothing else bounds the feed where no worker trims.
local refused = false
for n = 6, #ARGV, 2 do
  local body = ARGV[n + 1]
  if body == '' then
    body = ARGV[5]
  end
  local added = redis.pcall('XADD', KEYS[5], '*', 'e', ARGV[n], 'p', body)
  refused = refused or (added.err and added)
end
local alive = redis.call('ZREM', KEYS[3], ARGV[2])
local installed = 0
if alive == 0 then
  -- The lease ran out before we came back: someone may have cached what was true before our write.
  redis.call('DEL', KEYS[1])
  redis.call('DEL', KEYS[2])
  invalidate(KEYS[6], KEYS[7], KEYS[1])
elseif redis.call('GET', KEYS[2]) == i .. ARGV[2] then
  redis.call('SET', KEYS[1], i .. ARGV[4] .. ARGV[5], 'PX', ARGV[3])
  redis.call('DEL', KEYS[2])
  installed = 1
end
if refused then
  return refused -- The lease is released, and the client keeps the events for later.
end
return { installed, alive }
