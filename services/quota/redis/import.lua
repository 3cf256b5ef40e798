-- Write a key's counter and holds of the previous version's layout, unless the key has a counter. Atomic.
--
-- The imported holds take of the key's limit only: the previous version has no limits of accounts, and the account's
-- count in the ledger may include their rows.
--
-- KEYS[1]  quota:{bucket}:account:account_id:day
-- KEYS[2]  quota:{bucket}:holds
-- ARGV     account id, day, key id, counter, charged, highest limit, then for each hold: request id, time of the reserve
--          in milliseconds, deadline in milliseconds

local account_id, day, key_id, counter = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
if redis.call('HEXISTS', KEYS[1], counter) == 1 then
  return 0
end
local held = (#ARGV - 6) / 3
redis.call('HSET', KEYS[1], counter, ARGV[5], counter .. ':limit', ARGV[6], counter .. ':held', held)
for i = 7, #ARGV, 3 do
  redis.call('HSET', KEYS[1], ARGV[i], ARGV[i + 1] .. ' ' .. account_id .. ' ' .. key_id .. ' 0 ' .. counter .. ' 1')
  redis.call('ZADD', KEYS[2], ARGV[i + 2], account_id .. ' ' .. day .. ' ' .. ARGV[i])
end
return 1
