-- Raise a counter that lost charges to the ledger's count of charged rows without a hold. Atomic.
--
-- A row commits before its hold is settled, so counting a row whose hold still exists would charge it twice. The count
-- excludes the rows of the old holds listed in ARGV. If there is another old hold, the count may include its row, so
-- nothing is changed and the next round counts again.
--
-- KEYS[1]  quota:{bucket}:key_id:day
-- ARGV     count, time in milliseconds before which the counted rows were reserved, request ids of excluded holds …
-- Returns  the number of charges added; 0 if there is no counter, which the next reserve initialises

local count, reserved_before_ms = tonumber(ARGV[1]), tonumber(ARGV[2])
local charged = tonumber(redis.call('HGET', KEYS[1], 'charged'))
if not charged or count <= charged then
  return 0
end
local excluded = {}
for i = 3, #ARGV do
  excluded[ARGV[i]] = true
end
local entries = redis.call('HGETALL', KEYS[1])
for i = 1, #entries, 2 do
  local name = entries[i]
  if name ~= 'charged' and name ~= 'limit' and not excluded[name] then
    local reserved_at_ms = tonumber(string.match(entries[i + 1], '^%d+') or 0)
    if reserved_at_ms < reserved_before_ms then
      return 0
    end
  end
end
redis.call('HSET', KEYS[1], 'charged', count)
return count - charged
