-- ARGV: lease_ms, then ids of running responses
-- Prolongs their places, or takes them again if they ran out.
local now = now_ms()
for i = 2, #ARGV do redis.call('ZADD', RUNNING, now + tonumber(ARGV[1]), ARGV[i]) end
live_for(RUNNING, tonumber(ARGV[1]))
