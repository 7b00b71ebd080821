-- KEYS: hash of an idempotency key: `body` (digest), `id`, `confirmed` (once the response is stored)
-- ARGV: digest of the body, id of the response it would make, reservation_ms, id that may be replaced, or ''
-- Returns {'new'}, {'existing', id, confirmed} or {'conflict', id, confirmed}. Run again for the same id: 'new'.
local key = KEYS[1]
local there = redis.call('HMGET', key, 'body', 'id', 'confirmed')
if there[1] and there[2] ~= ARGV[4] and there[2] ~= ARGV[2] then
  return {there[1] == ARGV[1] and 'existing' or 'conflict', there[2], there[3] and 1 or 0}
end
if there[2] ~= ARGV[2] then
  redis.call('DEL', key)
  redis.call('HSET', key, 'body', ARGV[1], 'id', ARGV[2])
  redis.call('PEXPIRE', key, ARGV[3])
end
return {'new'}
