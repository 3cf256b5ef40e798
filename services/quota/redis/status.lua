-- Read a counter and what its holds take, for today.
--
-- KEYS[1]  quota:{bucket}:account:account_id
-- ARGV     clock offset in seconds, earliest and latest possible day, counter
-- Returns  {day, charged, held}; charged is -1 if there is no counter yet

local time = redis.call('TIME')
local day = math.floor((tonumber(time[1]) + tonumber(ARGV[1])) / 86400)
day = math.max(tonumber(ARGV[2]), math.min(tonumber(ARGV[3]), day))
local entries = KEYS[1] .. ':' .. string.format('%d', day)
local values = redis.call('HMGET', entries, ARGV[4], ARGV[4] .. ':held')
return {day, tonumber(values[1] or -1), tonumber(values[2] or 0)}
