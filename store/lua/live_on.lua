-- ARGV: lifetime_ms
-- Starts the lifetime of a response that has not ended anew. Returns 1, or 0 if it has ended or is gone.
local status = redis.call('HGET', JOB, 'status')
if not status or has_ended(status) then return 0 end
expire(ARGV[1])
return 1
