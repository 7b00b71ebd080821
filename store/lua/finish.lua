-- ARGV: fence, first, next, field, bytes, record, digest of bytes and record, status, retention_ms of the record,
--       retention_ms of log and job, channel of the log
-- Ends a response: last batch, record and status at once. Returns 0, also when the very same end is already there;
-- -1: the lease is lost, or the response is gone; -2: the batch does not follow the log's end.
local next = ARGV[3]
local job = redis.call('HMGET', JOB, 'status', 'fence', 'holder', 'next', 'digest')
if not job[1] or job[2] ~= ARGV[1] or not job[3] then return -1 end
if has_ended(job[1]) then return job[5] == ARGV[7] and 0 or -1 end
if job[4] ~= ARGV[2] then return -2 end
redis.call('XADD', EVENTS, next .. '-0', ARGV[4], ARGV[5])
redis.call('HSET', JOB, 'status', ARGV[8], 'next', next, 'digest', ARGV[7])
redis.call('HDEL', JOB, 'request')
redis.call('PEXPIRE', JOB, ARGV[10])
redis.call('PEXPIRE', EVENTS, ARGV[10])
redis.call('SET', RECORD, ARGV[6], 'PX', ARGV[9])
redis.call('PUBLISH', ARGV[11], '')
return 0
