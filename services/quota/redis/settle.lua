-- Close holds of one account and day. Atomic.
--
-- A settlement without a hold changes nothing, so settling twice is safe without storing old ids. If Redis lost the hold,
-- reconciliation restores the charge from the ledger.
--
-- KEYS[1]  quota:{bucket}:account:account_id:day  the account's counters and holds of that day
-- KEYS[2]  quota:{bucket}:holds                   deadline of each hold of the bucket
-- ARGV     account id, day, then for each hold: request id, verdict (charged or released)
-- Returns  for each hold, 1 if it existed and 0 otherwise

local account_id, day = ARGV[1], ARGV[2]
local answer, changes = {}, {}
for i = 3, #ARGV, 2 do
  local request_id, verdict = ARGV[i], ARGV[i + 1]
  local hold = redis.call('HGET', KEYS[1], request_id)
  if hold then
    redis.call('ZREM', KEYS[2], account_id .. ' ' .. day .. ' ' .. request_id)
    redis.call('HDEL', KEYS[1], request_id)
    -- The hold says how much it took of which counters.
    for counter, amount in string.gmatch(hold, ' ([^ :]+:[^ ]+) (%d+)') do
      changes[counter .. ':held'] = (changes[counter .. ':held'] or 0) - amount
      if verdict == 'charged' then
        changes[counter] = (changes[counter] or 0) + amount
      end
    end
  end
  answer[#answer + 1] = hold and 1 or 0
end
for field, change in pairs(changes) do
  redis.call('HINCRBY', KEYS[1], field, change)
end
return answer
