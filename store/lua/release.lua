-- ARGV: fence, 1 if the attempt does not count
-- Ends the holder's right to write. Returns the attempts that count, or -1 if the lease is lost. Harmless when run again.
local job = redis.call('HMGET', JOB, 'status', 'fence', 'holder', 'attempts')
if not job[1] or has_ended(job[1]) or job[2] ~= ARGV[1] then return -1 end
if not job[3] then return tonumber(job[4]) end
redis.call('HDEL', JOB, 'holder')
local attempts = math.max(0, tonumber(job[4]) - tonumber(ARGV[2]))
redis.call('HSET', JOB, 'attempts', attempts)
return attempts
