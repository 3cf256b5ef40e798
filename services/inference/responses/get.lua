-- Return a response, or false if it is not in the account's index. One that is not is removed.
--
-- KEYS: the index, the response. ARGV: response id.
local value = redis.call('GET', KEYS[2])
if not value then
    return false
end
if not redis.call('ZSCORE', KEYS[1], ARGV[1] .. ' ' .. string.len(value)) then
    redis.call('UNLINK', KEYS[2])
    return false
end
return value
