-- ARGV: what the channels of holders begin with
-- Asks for a response to be cancelled, and wakes its holder. Returns the status, or nil if there is no such job.
local job = redis.call('HMGET', JOB, 'status', 'holder')
if not job[1] then return nil end
if not has_ended(job[1]) then
  redis.call('HSET', JOB, 'cancel', 1)
  if job[2] then redis.call('PUBLISH', ARGV[1] .. job[2], '') end
end
return job[1]
