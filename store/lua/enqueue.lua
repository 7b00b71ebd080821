-- ARGV: entry, the most entries in READY (0: any number), the same for the owner, channel that wakes takers
-- Returns 1 once the entry is in the queue, waiting or held; 0 if the queue is full. Harmless when run again.
local entry, max_ready, max_owner = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
if redis.call('ZSCORE', READY, entry) or redis.call('ZSCORE', LEASES, entry) then return 1 end
local owner = string.match(entry, '^[^:]*')
if max_ready > 0 and redis.call('ZCARD', READY) >= max_ready then return 0 end
if max_owner > 0 and redis.call('ZLEXCOUNT', READY, '[' .. owner .. ':', '(' .. owner .. ';') >= max_owner then return 0 end
make_ready(entry)
redis.call('PUBLISH', ARGV[4], '')
return 1
