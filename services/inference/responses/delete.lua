-- Delete a response. Returns 1, or 0 if there is none.
--
-- KEYS: the index, the response. ARGV: response id.
local size = redis.call('STRLEN', KEYS[2])
redis.call('UNLINK', KEYS[2])
if redis.call('ZREM', KEYS[1], ARGV[1] .. ' ' .. size) == 0 then
    return 0
end
redis.call('ZINCRBY', KEYS[1], -size, 'bytes')
return 1
