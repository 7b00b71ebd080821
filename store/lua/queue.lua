-- What all scripts of the queue begin with. KEYS, all in one slot:
--   READY   sorted set, all scores 0: entries that wait, `<owner>:<tier>:<time>:<response id>`, so in byte order
--   OWNERS  sorted set: who has something in READY, by turn
--   LEASES  sorted set: entries that are held, or put off, until their score (milliseconds)
--   FENCES  hash: `<fence> <claim>` of each entry that is held; one that is put off has none
--   CLOCK   hash: `fence`, the last one given; `seen`, when an edge was last alive; `quiet_until`
local READY, OWNERS, LEASES, FENCES, CLOCK = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]

local function now_ms()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

-- Notes that an edge is alive and returns the time. When none was heard of for longer than gap_ms, the server or the
-- way to it was away, or its clock jumped, as it did when it goes back: leases then ran out without fault, or will not in
-- their time, so for lease_ms none is taken, while who lives renews his.
local function tick(lease_ms, gap_ms)
  local now = now_ms()
  local seen = tonumber(redis.call('HGET', CLOCK, 'seen') or now)
  if now - seen > gap_ms or now < seen then redis.call('HSET', CLOCK, 'quiet_until', now + lease_ms) end
  redis.call('HSET', CLOCK, 'seen', now)
  return now
end

local function fence_of(entry)
  local held = redis.call('HGET', FENCES, entry)
  if not held then return nil end
  return string.match(held, '^%d+')
end

local function first_of(owner)  -- ';' is the byte after ':'
  return redis.call('ZRANGE', READY, '[' .. owner .. ':', '(' .. owner .. ';', 'BYLEX', 'LIMIT', 0, 1)[1]
end

-- Puts an owner that has something in READY at the end of the line, unless it stands there.
local function line_up(owner)
  if redis.call('ZSCORE', OWNERS, owner) then return end
  local last = redis.call('ZRANGE', OWNERS, -1, -1, 'WITHSCORES')
  redis.call('ZADD', OWNERS, last[2] and tonumber(last[2]) + 1 or 0, owner)
end

local function make_ready(entry)
  redis.call('ZADD', READY, 0, entry)
  line_up(string.match(entry, '^[^:]*'))
end

-- Leases an entry. Fences grow, even when a failover lost the last of them: they never fall behind the time.
local function grant(entry, claim, now, lease_ms)
  local fence = math.max(tonumber(redis.call('HGET', CLOCK, 'fence') or 0) + 1, now)
  redis.call('HSET', CLOCK, 'fence', fence)
  redis.call('HSET', FENCES, entry, string.format('%.0f %s', fence, claim))
  redis.call('ZADD', LEASES, now + lease_ms, entry)
  return fence
end

