-- Read the numbers of refused requests of one key.
--
-- KEYS[1]  quota:{bucket}:refusals:account_id:key_id  prefix of the key's hashes
-- ARGV     number of days, today included
-- Returns  {now in seconds, then for each day, oldest first: the day, its fields and values}

local now = tonumber(redis.call('TIME')[1])
local today = math.floor(now / 86400)
local answer = {now}
for day = today - tonumber(ARGV[1]) + 1, today do
  answer[#answer + 1] = day
  answer[#answer + 1] = redis.call('HGETALL', KEYS[1] .. ':' .. string.format('%d', day))
end
return answer
