-- Raise a counter that lost charges to the ledger's count of charged rows without a hold. Atomic.
--
-- A row commits before its hold is settled, so counting a row whose hold still exists would charge it twice. The count
-- excludes the rows of the old holds listed in ARGV. If there is another old hold, the count may include its row, so
-- nothing is changed and the next round counts again.
--
-- KEYS[1]  quota:{bucket}:account:account_id:day
-- ARGV     counter, count, time in milliseconds before which the counted rows were reserved, request ids of excluded
--          holds …
-- Returns  the number of charges added; 0 if there is no counter, which the next reserve initialises

local counter, count, reserved_before_ms = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local charged = redis.call('HGET', KEYS[1], counter)
if not charged then
  return 0
end
charged = tonumber(charged) or 0
if count <= charged then
  return 0
end
local excluded = {}
for i = 4, #ARGV do
  excluded[ARGV[i]] = true
end
local entries = redis.call('HGETALL', KEYS[1])
for i = 1, #entries, 2 do
  local name, value = entries[i], entries[i + 1]
  local is_hold = not string.find(name, ':', 1, true)
  if is_hold and not excluded[name] and string.find(value .. ' ', ' ' .. counter .. ' ', 1, true) then
    if tonumber(string.match(value, '^%d+') or 0) < reserved_before_ms then
      return 0
    end
  end
end
redis.call('HSET', KEYS[1], counter, count)
-- The ledger's charges were within the limit at their time, which may have been lowered or removed since.
if count > tonumber(redis.call('HGET', KEYS[1], counter .. ':limit') or 0) then
  redis.call('HSET', KEYS[1], counter .. ':limit', count)
end
return count - charged
