-- Raise a counter that lost charges, to the charged rows of the ledger that its holds do not stand for; one atomic step.
--
-- A row commits before its hold is settled: counted beside its hold it would be charged twice. So ids that still have a
-- hold are left out here, in the same step in which the counter is raised.
--
-- KEYS[1]  quota:{bucket}:key_id:day
-- ARGV     ids of charged rows that are older than a hold can live …
-- Returns  by how much the counter was raised; 0 when there is no counter: the next reserve seeds it

local charged = tonumber(redis.call('HGET', KEYS[1], 'charged'))
if not charged then
  return 0
end
local counted = 0
for i = 1, #ARGV do
  if redis.call('HEXISTS', KEYS[1], ARGV[i]) == 0 then
    counted = counted + 1
  end
end
if counted <= charged then
  return 0
end
redis.call('HSET', KEYS[1], 'charged', counted)
return counted - charged
