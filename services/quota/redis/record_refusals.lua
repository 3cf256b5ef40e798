-- Add to the numbers of refused requests of one key.
--
-- Beyond a number of fields, the requests of a day are counted as `0:other`, so that the size of a hash is bounded.
--
-- KEYS[1]  quota:{bucket}:refusals:account_id:key_id  prefix of the key's hashes; the day is appended here
-- ARGV     maximum number of fields, lifetime of a hash in seconds, then for each number: status and code
--          (`429:rate_limit_exceeded`), count, age of the last of the requests in seconds
-- Returns  1

local fields_max, lifetime = tonumber(ARGV[1]), ARGV[2]
local now = tonumber(redis.call('TIME')[1])
for i = 3, #ARGV, 3 do
  local reason, at = ARGV[i], now - tonumber(ARGV[i + 2])
  local name = KEYS[1] .. ':' .. string.format('%d', math.floor(at / 86400))
  local hour = string.format('%d', math.floor(at / 3600) % 24)
  if redis.call('HLEN', name) >= fields_max and redis.call('HEXISTS', name, hour .. ':' .. reason) == 0 then
    reason = '0:other'
  end
  redis.call('HINCRBY', name, hour .. ':' .. reason, ARGV[i + 1])
  local last = redis.call('HGET', name, 'last:' .. reason)
  if not last or tonumber(last) < at then
    redis.call('HSET', name, 'last:' .. reason, string.format('%d', at))
  end
  redis.call('EXPIRE', name, lifetime)
end
return 1
