-- ARGV: fence, holder, lifetime_ms
-- Makes the holder of a lease the only one that can write. Returns {'held', attempts, next, cancel, request, record};
-- {'ended'}; {'gone'}; or {'stale'} when somebody came before with a higher fence. Run again it counts no attempt.
local job = redis.call('HMGET', JOB, 'status', 'fence', 'holder')
if not job[1] then return {'gone'} end
if has_ended(job[1]) then return {'ended'} end
if redis.call('EXISTS', RECORD) == 0 then  -- evicted or expired: nobody could read the response, nor run it
  redis.call('UNLINK', JOB, EVENTS)
  return {'gone'}
end
local fence = tonumber(job[2])
if fence > tonumber(ARGV[1]) then return {'stale'} end
if fence < tonumber(ARGV[1]) then
  redis.call('HSET', JOB, 'status', 'in_progress', 'fence', ARGV[1], 'holder', ARGV[2])
  redis.call('HINCRBY', JOB, 'attempts', 1)
elseif job[3] ~= ARGV[2] then
  return {'stale'}
end
expire(ARGV[3])
job = redis.call('HMGET', JOB, 'attempts', 'next', 'cancel', 'request')
return {'held', tonumber(job[1]), tonumber(job[2]), job[3] and 1 or 0, job[4] or '', redis.call('GET', RECORD)}
