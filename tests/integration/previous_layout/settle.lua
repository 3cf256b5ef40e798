-- Close holds of one key and day. Atomic.
--
-- A settlement without a hold changes nothing, so settling twice is safe without storing old ids. If Redis lost the hold,
-- reconciliation restores the charge from the ledger.
--
-- KEYS[1]  quota:{bucket}:key_id:day  the key's counter and holds of that day
-- KEYS[2]  quota:{bucket}:deadlines   deadline of each hold of the bucket
-- ARGV     key id, day, then for each hold: request id, verdict (charged or released)
-- Returns  for each hold, 1 if it existed and 0 otherwise

local key_id, day = ARGV[1], ARGV[2]
local answer = {}
for i = 3, #ARGV, 2 do
  local request_id, verdict = ARGV[i], ARGV[i + 1]
  local closed = redis.call('HDEL', KEYS[1], request_id)
  if closed == 1 then
    redis.call('ZREM', KEYS[2], key_id .. ' ' .. day .. ' ' .. request_id)
    if verdict == 'charged' then
      redis.call('HINCRBY', KEYS[1], 'charged', 1)
    end
  end
  answer[#answer + 1] = closed
end
return answer
