-- Returns {bytes of stored records, how many, how many responses run}.
local now = now_ms()
trim(now)
local total = tonumber(redis.call('HGET', SIZES, 'total') or 0)
return {total, redis.call('ZCARD', STORED), redis.call('ZCOUNT', RUNNING, now, '+inf')}
