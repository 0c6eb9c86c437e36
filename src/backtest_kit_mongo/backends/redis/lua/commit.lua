-- COMMIT: release the lease, install the entry if the right is still ours, append the events. Returns { installed, lease was alive, appended }.
-- KEYS entry right leases born stream numbers channel account era
-- ARGV expected-era token ttl-ms record-header body streams-count { event-header event-body }*
-- An empty event-body stands for `body`, so that a payload is sent once.
local i = current(KEYS[9], ARGV[1])
-- The events first: see `append`.
local events = {}
for n = 7, #ARGV, 2 do
  events[n - 6] = ARGV[n]
  events[n - 5] = ARGV[n + 1] == '' and ARGV[5] or ARGV[n + 1]
end
local appended = append(KEYS[5], KEYS[8], tonumber(ARGV[6]), events)
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
if type(appended) == 'table' then
  return appended -- The lease is released, and the client keeps the events for later.
end
return { installed, alive, appended }
