-- KEYS: hash of an idempotency key: `body` (digest), `id`, `until` (the reservation, milliseconds), `confirmed` (once the
--       response is stored)
-- ARGV: digest of the body, id of the response it would make, reservation_ms, lifetime_ms, state that may be replaced, or ''
-- Returns {'new'}; or {'existing' or 'conflict', id, state}: not '' when a response that is not there now will not be made
-- any more. Run again for the same id: 'new', and the reservation begins anew.
local key = KEYS[1]
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local there = redis.call('HMGET', key, 'body', 'id', 'until', 'confirmed')
if there[1] and there[2] ~= ARGV[2] then
  local is_over = there[4] or now > tonumber(there[3] or 0)
  local state = is_over and there[2] .. (there[4] and ' confirmed' or ' reserved') or ''
  if state == '' or state ~= ARGV[5] then return {there[1] == ARGV[1] and 'existing' or 'conflict', there[2], state} end
  redis.call('DEL', key)
end
redis.call('HSET', key, 'body', ARGV[1], 'id', ARGV[2], 'until', now + tonumber(ARGV[3]))
redis.call('PEXPIRE', key, ARGV[4])
return {'new'}
