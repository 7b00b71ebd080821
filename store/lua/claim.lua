-- ARGV: claim, lease_ms, gap_ms
-- Leases the first entry of the owner whose turn it is. Returns {entry, fence}, or nil if nothing waits.
-- Run again after a lost reply it leases another entry; the first comes back when its lease runs out.
local now = tick(tonumber(ARGV[2]), tonumber(ARGV[3]))
while true do  -- each round takes an owner out of the line
  local owner = redis.call('ZRANGE', OWNERS, 0, 0)[1]
  if not owner then return nil end
  local entry = first_of(owner)
  redis.call('ZREM', OWNERS, owner)
  if entry then
    redis.call('ZREM', READY, entry)
    if first_of(owner) then line_up(owner) end
    return {entry, grant(entry, ARGV[1], now, tonumber(ARGV[2]))}
  end
end
