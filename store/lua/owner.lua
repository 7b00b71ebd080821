-- What all scripts of one owner begin with. KEYS, all in one slot:
--   STORED   sorted set: ids of stored responses, by the time that their records expire (milliseconds)
--   SIZES    hash: the bytes of each of them, and `total`
--   RATE     string: the time until which the requests so far use up the rate (milliseconds)
--   RUNNING  sorted set: ids of running responses, by the time until which their edge vouches for them
local STORED, SIZES, RATE, RUNNING = KEYS[1], KEYS[2], KEYS[3], KEYS[4]

local function now_ms()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

local function remove(id)  -- what a full server refuses comes first, so nothing is half done
  local size = redis.call('HGET', SIZES, id)
  if not size then return end
  redis.call('HINCRBY', SIZES, 'total', -tonumber(size))
  redis.call('HDEL', SIZES, id)
  redis.call('ZREM', STORED, id)
end

-- Takes out what has expired since; some of it, as every save does it too.
local function trim(now)
  for _, id in ipairs(redis.call('ZRANGE', STORED, '-inf', now, 'BYSCORE', 'LIMIT', 0, 256)) do remove(id) end
end

local function live_for(key, ms)
  if redis.call('PTTL', key) < ms then redis.call('PEXPIRE', key, ms) end
end

