-- ARGV: lease_ms, gap_ms, the longest that an entry is held or put off, the most entries at once, channel that wakes
--       takers
-- Makes entries ready whose lease ran out or whose delay is over, but none for a whole lease after an outage. Returns
-- how many.
local now = tick(tonumber(ARGV[1]), tonumber(ARGV[2]))
if now < tonumber(redis.call('HGET', CLOCK, 'quiet_until') or 0) then return 0 end
local due = redis.call('ZRANGE', LEASES, '-inf', now, 'BYSCORE', 'LIMIT', 0, ARGV[4])
if #due == 0 then  -- what is further ahead than that was held before the clock was set back, and nobody renewed it since
  due = redis.call('ZRANGE', LEASES, string.format('(%.0f', now + tonumber(ARGV[3])), '+inf', 'BYSCORE', 'LIMIT', 0, ARGV[4])
end
for _, entry in ipairs(due) do
  redis.call('ZREM', LEASES, entry)
  redis.call('HDEL', FENCES, entry)
  make_ready(entry)
end
if #due > 0 then redis.call('PUBLISH', ARGV[5], '') end
return #due
