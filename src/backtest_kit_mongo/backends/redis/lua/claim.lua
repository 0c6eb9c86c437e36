-- CLAIM: this memory belongs to an era of the database, and MongoDB has counted so far in it. Done only if the memory still believes the era
-- that the client has looked at. Returns { done, the last entry of the stream where another era began }.
-- KEYS era stream born new   ARGV looked-at-era era (empty: only say where the stream stands) count
local held = redis.call('GET', KEYS[1]) or ''
local before = string.sub(held, 1, 16)
if before ~= ARGV[1] then
  return { 0, '' }
end
local count, last = tonumber(ARGV[3]), ''
if before == ARGV[2] then
  count = math.max(count, tonumber(string.sub(held, 17)))
else
  incarnation() -- Refuses on a replica before anything is expected there.
  local info = redis.pcall('XINFO', 'STREAM', KEYS[2])
  for n = 1, #info, 2 do
    if info[n] == 'last-generated-id' then
      last = info[n + 1]
    end
  end
end
if ARGV[2] == '' then
  return { 1, last }
end
redis.call('DEL', KEYS[1]) -- After a first write that needs no memory, a full Redis lets a script end: who starts then must come up.
redis.call('SET', KEYS[1], ARGV[2] .. string.format('%.0f', count))
local new = redis.call('GET', KEYS[4])
if new then
  redis.call('DEL', KEYS[4]) -- It speaks of the first use alone.
  if new == incarnation() and redis.call('EXISTS', KEYS[3]) == 0 then
    -- This memory began empty, together with its MongoDB, and nobody has used it: no lease can be under way. Open at once.
    redis.call('SET', KEYS[3], string.sub(new, 1, 24) .. ARGV[2] .. '0')
  end
end
return { 1, last }
