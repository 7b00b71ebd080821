-- ARGV: retention_ms, id of a response that is stored or '', its bytes, then ids whose lifetime starts anew
-- Without an id it never fails: a full server must go on reading chains, and its account then falls behind.
local retention_ms, id = tonumber(ARGV[1]), ARGV[2]

local function account()
  local now = now_ms()
  trim(now)
  if id ~= '' then
    remove(id)
    redis.call('HSET', SIZES, id, ARGV[3])
    redis.call('HINCRBY', SIZES, 'total', ARGV[3])
    redis.call('ZADD', STORED, now + retention_ms, id)
  end
  for i = 4, #ARGV do redis.call('ZADD', STORED, 'XX', 'GT', now + retention_ms, ARGV[i]) end
  live_for(STORED, retention_ms)
  live_for(SIZES, retention_ms)
end

if id ~= '' then account() else pcall(account) end
