-- Raise a counter that lost charges to the number of its charged rows that no hold stands for; one atomic step.
--
-- A row commits before its hold is settled, so a row that is counted beside its hold would be charged twice. The count
-- leaves out rows of the old holds that are named here. Where another old hold is found, its row may be in the count:
-- nothing is changed then, and the next round counts again.
--
-- KEYS[1]  quota:{bucket}:key_id:day
-- ARGV     the count, the time in milliseconds that its rows were reserved before, ids of the holds that it leaves out …
-- Returns  by how much the counter was raised; 0 when there is no counter: the next reserve seeds it

local count, reserved_before_ms = tonumber(ARGV[1]), tonumber(ARGV[2])
local charged = tonumber(redis.call('HGET', KEYS[1], 'charged'))
if not charged or count <= charged then
  return 0
end
local left_out = {}
for i = 3, #ARGV do
  left_out[ARGV[i]] = true
end
local entries = redis.call('HGETALL', KEYS[1])
for i = 1, #entries, 2 do
  local name = entries[i]
  if name ~= 'charged' and name ~= 'limit' and not left_out[name] then
    local reserved_at_ms = tonumber(string.match(entries[i + 1], '^%d+') or 0)
    if reserved_at_ms < reserved_before_ms then
      return 0
    end
  end
end
redis.call('HSET', KEYS[1], 'charged', count)
return count - charged
