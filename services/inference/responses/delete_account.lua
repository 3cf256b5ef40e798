-- Delete all responses of an account, and mark it, so that its calls in flight store no more.
--
-- KEYS: the index, the mark. ARGV: prefix of the account's responses, lifetime of the mark in ms.
for _, member in ipairs(redis.call('ZRANGE', KEYS[1], 0, -1)) do
    local id = string.match(member, '^(%S+) %d+$')
    if id then
        redis.call('UNLINK', ARGV[1] .. id)
    end
end
redis.call('UNLINK', KEYS[1])
redis.call('SET', KEYS[2], '', 'PX', ARGV[2])
return 1
