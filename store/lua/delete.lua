-- ARGV: what the channels of holders begin with, channel of the log
-- Erases all of a response, and wakes who writes and who reads it. Returns 1 if there was anything, else 0.
local holder = redis.call('HGET', JOB, 'holder')
local is_job = redis.call('EXISTS', JOB)
local erased = redis.call('UNLINK', JOB, EVENTS, RECORD)
if holder then redis.call('PUBLISH', ARGV[1] .. holder, '') end
if is_job == 1 then redis.call('PUBLISH', ARGV[2], '') end
return erased > 0 and 1 or 0
