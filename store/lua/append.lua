-- ARGV: fence, first, next, field, bytes, lifetime_ms, the most bytes of a log, channel of the log, 1 if there are tokens
-- Appends a batch. Returns 0, or 1 if the response is to be cancelled; -1: the lease is lost, or the response is gone;
-- -2: the batch does not follow the log's end; -3: the log is full.
local first, next, field, bytes = ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local job = redis.call('HMGET', JOB, 'status', 'fence', 'holder', 'next', 'log_bytes', 'cancel')
if not job[1] or has_ended(job[1]) or job[2] ~= ARGV[1] or not job[3] then return -1 end
if job[4] ~= first then
  if not is_logged(next, field, bytes) then return -2 end
  return job[6] and 1 or 0
end
if tonumber(job[5]) + #bytes > tonumber(ARGV[7]) then return -3 end
redis.call('XADD', EVENTS, next .. '-0', field, bytes)
redis.call('HSET', JOB, 'next', next, 'log_bytes', tonumber(job[5]) + #bytes)
if ARGV[9] == '1' then redis.call('HSET', JOB, 'attempts', 0) end  -- what gets further is not given up
expire(ARGV[6])
redis.call('PUBLISH', ARGV[8], '')
return job[6] and 1 or 0
