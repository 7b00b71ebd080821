-- ARGV: lease_ms, gap_ms, then entry and fence of each lease
-- Prolongs leases that are still held; also one that ran out, if nobody took it away. Returns 1 or 0 for each.
local now = tick(tonumber(ARGV[1]), tonumber(ARGV[2]))
local renewed = {}
for i = 3, #ARGV, 2 do
  local is_held = fence_of(ARGV[i]) == ARGV[i + 1]
  if is_held then redis.call('ZADD', LEASES, now + tonumber(ARGV[1]), ARGV[i]) end
  renewed[#renewed + 1] = is_held and 1 or 0
end
return renewed
