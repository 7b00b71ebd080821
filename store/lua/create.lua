-- ARGV: tier, lifetime_ms, record, request, then field, bytes and next of the first batch, or nothing
-- Creates job, record and log of a response at once. Returns its creation time, also when run again.
local created_at = redis.call('HGET', JOB, 'created_at')
if created_at then return tonumber(created_at) end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('HSET', JOB, 'status', 'queued', 'tier', ARGV[1], 'created_at', now, 'fence', 0, 'attempts', 0,
  'next', ARGV[7] or 0, 'log_bytes', #(ARGV[6] or ''), 'request', ARGV[4])
if ARGV[5] then redis.call('XADD', EVENTS, ARGV[7] .. '-0', ARGV[5], ARGV[6]) end
redis.call('SET', RECORD, ARGV[3])
expire(ARGV[2])
return now
