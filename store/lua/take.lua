-- ARGV: entry, claim, lease_ms, gap_ms
-- Leases this very entry, in the queue or not yet. Returns the fence, or nil if somebody else holds it. Run again with
-- the same claim it returns the same fence.
local entry, claim = ARGV[1], ARGV[2]
local now = tick(tonumber(ARGV[3]), tonumber(ARGV[4]))
local held = redis.call('HGET', FENCES, entry)
if held then
  local fence, by = string.match(held, '^(%d+) (.*)$')
  if by == claim then return tonumber(fence) end
  return nil
end
redis.call('ZREM', READY, entry)
return grant(entry, claim, now, tonumber(ARGV[3]))
