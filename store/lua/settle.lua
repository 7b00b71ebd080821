-- KEYS: as in reserve. ARGV: id, lifetime_ms; 0: there will be no response, and the key is forgotten
-- Confirms or ends what this response holds. Returns 1, or 0 if another response, or none, holds the key.
if redis.call('HGET', KEYS[1], 'id') ~= ARGV[1] then return 0 end
if ARGV[2] ~= '0' then redis.call('HSET', KEYS[1], 'confirmed', 1) end
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return 1
