-- PUBLISH: append events. Returns 1, or 0 where the feed has no room for them.
-- KEYS stream account   ARGV streams-count { event-header event-body }*
local events = {}
for n = 2, #ARGV do
  events[n - 1] = ARGV[n]
end
return append(KEYS[1], KEYS[2], tonumber(ARGV[1]), events)
