-- ARGV: entry, fence
-- Takes an entry out of the queue for good, if the lease is still held.
local entry = ARGV[1]
if fence_of(entry) ~= ARGV[2] then return 0 end
redis.call('HDEL', FENCES, entry)
redis.call('ZREM', LEASES, entry)
redis.call('ZREM', READY, entry)  -- a sweeper may have put it there
return 1
