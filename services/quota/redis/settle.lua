-- Close holds of one key and day; one atomic step. Where no hold is found nothing changes: the ledger knows, and
-- reconciliation raises the counter. So repeating is harmless without remembering old ids.
--
-- KEYS[1]  quota:{bucket}:key_id:day  the key's counter and holds of that day
-- KEYS[2]  quota:{bucket}:deadlines   when each hold of the bucket is overdue
-- ARGV     key id, day, then for each hold: request id, verdict (charged or released)
-- Returns  for each hold 1 when it was there, else 0

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
