-- KEYS: as in reserve. ARGV: id, lifetime_ms (0: at once forgotten), 1 if the response is stored
-- Prolongs, confirms or ends what this response holds. Returns 1, or 0 if another response holds the key.
if redis.call('HGET', KEYS[1], 'id') ~= ARGV[1] then return 0 end
if ARGV[3] == '1' then
  redis.call('HSET', KEYS[1], 'confirmed', 1)
elseif ARGV[2] ~= '0' and redis.call('HEXISTS', KEYS[1], 'confirmed') == 1 then
  return 1  -- a late prolongation
end
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return 1
