# A monitor, whose commands are read from 0x20000, rsi bytes: 'a' and four bytes is an address in a page at 0x30000, 'p' and
# a byte writes there, 'g' reads. The bug: the address is not compared with the page's size; memory ends at 1 MiB.
    mov rbx, 0x20000
    add rsi, rbx
    xor edx, edx                # the address
next:
    lea rax, [rbx + 5]
    cmp rax, rsi
    ja done
    mov al, [rbx]
    cmp al, 'a'
    je address
    cmp al, 'p'
    je poke
    cmp al, 'g'
    je peek
    inc rbx
    jmp next
address:
    mov edx, [rbx + 1]
.if FIXED
    and edx, 0xfff
.endif
    add rbx, 5
    jmp next
poke:
    mov al, [rbx + 1]
    mov [rdx + 0x30000], al
    add rbx, 2
    jmp next
peek:
    mov al, [rdx + 0x30000]
    inc rbx
    jmp next
done:
    hlt
