-- What all scripts of one response begin with. KEYS, all in one slot:
--   JOB     hash: `status`, `tier`, `created_at` (milliseconds), `fence`, `holder` (while somebody holds it),
--           `attempts` (leases in a row without a token), `next` (sequence number that comes next in the log), `log_bytes`, `cancel` (once asked for),
--           `request` (until it ends), `digest` (once it has ended)
--   EVENTS  stream: batches, each under the sequence number after its last event, field `b`, or `z` when compressed
--   RECORD  string: the response's record
local JOB, EVENTS, RECORD = KEYS[1], KEYS[2], KEYS[3]

local function expire(ms)
  for _, key in ipairs(KEYS) do redis.call('PEXPIRE', key, ms) end
end

local function has_ended(status)
  return status ~= 'queued' and status ~= 'in_progress'
end

-- The batch at this place, if it is the very same: then a reply was lost, and the write is run again.
local function is_logged(next, field, bytes)
  local there = redis.call('XRANGE', EVENTS, next .. '-0', next .. '-0')[1]
  return there ~= nil and there[2][1] == field and there[2][2] == bytes
end

